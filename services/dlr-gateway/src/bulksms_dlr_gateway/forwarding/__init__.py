"""The way on: reports out of the spool, to the services that know their messages."""
