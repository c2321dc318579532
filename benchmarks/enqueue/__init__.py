"""How long EnqueueCampaign takes, whatever the size of the audience."""
