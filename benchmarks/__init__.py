"""How fast fastbp is, commit by commit (asv) and beside other libraries (peers). See README.md here."""
