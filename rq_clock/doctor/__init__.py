"""Problems of a namespace, its server and its code: facts.py reads, the checks judge."""
