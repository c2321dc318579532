"""The HTTP side: the webhook, and a server that bounds what strangers may do."""
