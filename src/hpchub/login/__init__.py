"""The authenticators of the hub, and the pages of signing in."""
