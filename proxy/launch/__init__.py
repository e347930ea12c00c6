"""`headway run`: an engine and the proxy in front of it, started, watched and ended together on one machine."""
