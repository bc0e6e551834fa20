"""Durable state of the services: a journal, spooled uploads, attachments, event lines. Files 0600, folders 0700."""
