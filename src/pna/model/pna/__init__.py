"""PNA itself: NAM, SAM, a stage, the head. One file per box of the paper's figure 2."""
