"""The peers, each written as its users would write it. None of them imports pomona."""
