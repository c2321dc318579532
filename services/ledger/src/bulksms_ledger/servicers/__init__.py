"""The edge towards callers: RPCs, their messages checked and answered."""
