"""How many messages a second go through a dispatcher, and what each costs, stage by stage."""
