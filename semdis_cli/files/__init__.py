"""The disk: every file is opened, named, locked and published through here."""
