"""What serving engines are asked, and the files of theirs."""
