"""The preference-data audit: facts about a data set before anything is trained on it."""
