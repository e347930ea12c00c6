"""What proxies share through Redis; none of it is waited for on a request's path."""
