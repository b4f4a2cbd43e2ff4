"""Components of HTML reports."""
