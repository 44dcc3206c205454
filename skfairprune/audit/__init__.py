"""Audits of decisions on held-out rows: a verdict on a bound, and the document that tells it."""

from skfairprune.audit.report import Audit
from skfairprune.audit.verdict import audit

__all__ = ["Audit", "audit"]
