"""A writer for farms of Plone sites on Zope, whose databases RelStorage keeps in PostgreSQL."""
