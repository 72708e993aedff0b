"""What a competent user would write without fedkd; nothing here imports it."""
