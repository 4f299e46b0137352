"""From files of every common shape to Groups, and from Groups to tokens."""
