"""`shammie tour`: one model opened up chapter by chapter, into one page."""
