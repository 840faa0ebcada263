"""The registry of models on this machine: what is there, what is known of it, what of it holds.

pomona registry scan DIR... --out FOLDER     records of every package
pomona registry verify DIR --data FILE       audit one of them
pomona registry query FOLDER task=text-classification "bytes<1e9"
pomona registry report FOLDER
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pomona.ground.lazy import names_from

if TYPE_CHECKING:
    from pomona.registry.behaviour import Item, read_items
    from pomona.registry.ptm_reuse_audit import Audit, Finding, PtmReuseAuditConfig, audit
    from pomona.registry.ptmtorrent import PtmtorrentConfig, read_registry, scan
    from pomona.registry.schema import Package, Record, problems_in
    from pomona.registry.views import duplicates, export, lineage, query, report

__getattr__ = names_from(
    __name__,
    {
        "Audit": "ptm_reuse_audit",
        "Finding": "ptm_reuse_audit",
        "Item": "behaviour",
        "Package": "schema",
        "PtmReuseAuditConfig": "ptm_reuse_audit",
        "PtmtorrentConfig": "ptmtorrent",
        "Record": "schema",
        "audit": "ptm_reuse_audit",
        "duplicates": "views",
        "export": "views",
        "lineage": "views",
        "problems_in": "schema",
        "query": "views",
        "read_items": "behaviour",
        "read_registry": "ptmtorrent",
        "report": "views",
        "scan": "ptmtorrent",
    },
)

__all__ = [
    "Audit",
    "Finding",
    "Item",
    "Package",
    "PtmReuseAuditConfig",
    "PtmtorrentConfig",
    "Record",
    "audit",
    "duplicates",
    "export",
    "lineage",
    "problems_in",
    "query",
    "read_items",
    "read_registry",
    "report",
    "scan",
]
