"""All state in Redis: keys, scripts, clients."""
