"""The portal: the record as pages, for those who have a token. `flows.portal.app` puts it together."""
