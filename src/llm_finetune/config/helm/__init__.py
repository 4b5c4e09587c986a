"""Values as Helm reads them: files merged in order, `--set` and its kin, YAML by Go's rules."""
