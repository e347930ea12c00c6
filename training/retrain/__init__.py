"""`headway retrain`: from the traffic log to a published artifact, or to the reason why there is none."""
