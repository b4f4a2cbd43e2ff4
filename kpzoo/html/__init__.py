"""Parts of HTML reports."""
