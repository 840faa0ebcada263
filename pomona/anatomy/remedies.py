"""What to look at in a declaration when a probe fails."""

from __future__ import annotations

REMEDIES = {
    "forward": "the head does more than is declared: declare its transform, scale or soft cap, or another path",
    "embedding": "embeddings are scaled or normalized: declare embedding_scale, embedding_norm and every further table",
    "sizes": "name the right fields of the configuration, and the right paths: a part is counted twice or not at all",
    "unseen": "a parameter that is not declared takes part: declare it (a norm, a gate, a bias table, another table)",
    "weights": "the storage is another one: fused parts in another order, interleaved, transposed, or called twice",
    "norms": "the norm is of another kind, has an offset, another epsilon or no mean removal",
    "head_norms": "the norm of queries is declared for the keys, or the other way round: exchange them",
    "positions": "a row of the table of positions acts elsewhere: declare which row is the first position",
    "placement": "norms stand elsewhere, or a branch is scaled: declare placement, its norms and branch_scale",
    "roles": "query, key, value, up or gate are exchanged, or what a query sees is declared wrongly (causal, window)",
    "scores": "scores have another factor or soft cap, or queries and keys another norm: declare them",
    "rotary": "another number of features is turned by position: declare how many, and in which blocks none are",
    "attention": "another module calls the attention kernel, or heads lie in another order: look at AttentionShape",
    "experts": "a token uses other experts than the router's largest, or up and gate are exchanged",
    "gradients": "no gradient reaches this part and it was not proven idle: it is not what it is declared to be",
    "rescaling": "a norm has other readers than is declared: a further reader, or a placement of another kind",
    "spaces": "two weights that share a space are declared with different ones, or one more weight has this space",
    "fast": "nothing stands against permuting this space: leave the hindrance out of the declaration",
    "annotations": "leaving this weight out of its space went unnoticed: it is not what it is declared to be",
    "blocks": "blocks depend on their place or on one another: declare fixed_depth or what a block carries to the next",
    "walk": "a block gets more than hidden states from the one before: declare returns and carries",
}
"""By the name of the probe."""
