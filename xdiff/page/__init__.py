"""What the report page is made of: its style and script, and one function per section."""
