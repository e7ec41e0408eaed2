"""What people look at: HTML reports, charts and contact sheets."""
