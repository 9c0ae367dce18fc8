"""The two programs that act with other rights. They import nothing of hpchub but each other."""
