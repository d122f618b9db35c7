"""What several test folders share: real protocol peers written only from public specifications."""
