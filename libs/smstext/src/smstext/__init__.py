"""What a text message is: templates, GSM 03.38 and UCS-2 parts, senders, E.164 numbers."""
