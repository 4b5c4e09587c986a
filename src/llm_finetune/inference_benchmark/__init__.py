"""How fast a model answers on this machine, in processes that share its cores."""
