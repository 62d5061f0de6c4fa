package node_test

import (
	"log/slog"
	"os"
)

func debugLogger() *slog.Logger {
	if os.Getenv("KC_DEBUG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}
