"""From a data set and a machine to the two or three methods worth trying, with the evidence for each sentence."""
