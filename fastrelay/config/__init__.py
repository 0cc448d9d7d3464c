"""The configuration: schema (what there is), loading (strict), host checks. Only schema is cheap to import."""
