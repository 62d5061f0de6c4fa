package node

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger lets Raft write to a slog.Logger.
func raftLogger(logger *slog.Logger) hclog.Logger {
	// The root writes nothing itself (level off); the sink below gets every record
	// and slog's own level decides.
	root := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Off})
	root.RegisterSink(slogSink{logger})
	return root
}

type slogSink struct{ logger *slog.Logger }

// Accept implements hclog.SinkAdapter.
func (s slogSink) Accept(name string, level hclog.Level, message string, args ...any) {
	to := slogLevel(level)
	if !s.logger.Enabled(context.Background(), to) {
		return
	}
	attrs := make([]any, 0, len(args)+2)
	attrs = append(attrs, "part", name)
	for _, arg := range args {
		if format, ok := arg.(hclog.Format); ok && len(format) > 0 {
			arg = fmt.Sprintf(fmt.Sprint(format[0]), format[1:]...)
		}
		attrs = append(attrs, arg)
	}
	s.logger.Log(context.Background(), to, message, attrs...)
}

func slogLevel(level hclog.Level) slog.Level {
	switch level {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Info:
		return slog.LevelInfo
	case hclog.Debug:
		return slog.LevelDebug
	}
	return slog.LevelDebug - 4
}
