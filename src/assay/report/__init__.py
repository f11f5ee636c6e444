"""What people look at: the report and its forms (terminal, JSON, HTML)."""

from assay.report._report import Finding as Finding
from assay.report._report import Report as Report
