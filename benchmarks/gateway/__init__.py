"""How many delivery reports a second the gateway makes durable, acknowledges and forwards, and what each costs."""
