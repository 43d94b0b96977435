"""POST /responses over engines that chat: `request` makes a chat call of one, `answer` and `stream` word what comes
back. Pure. Nothing is kept here, so whatever needs an earlier response is refused by name."""
