"""A demonstration farm in SharePoint's shape: configuration, content databases, search index, third party."""
