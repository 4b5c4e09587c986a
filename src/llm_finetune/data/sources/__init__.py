"""Where rows come from: files of each format, folders of them, data sets of the Hub."""
