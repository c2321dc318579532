"""How services speak to each other: servers, channels, and the errors and traces both carry."""
