"""How long EnqueueCampaign takes to answer, whatever the size of the audience."""
