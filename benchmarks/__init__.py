"""pomona next to other people's software: the same work, the same machine, the same run."""
