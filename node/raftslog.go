package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// raftLogger lets Raft write to a slog.Logger.
func raftLogger(logger *slog.Logger) hclog.Logger {
	// The root writes nothing itself (level off); the sink below gets every record
	// and slog's own level decides.
	root := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Off})
	root.RegisterSink(&slogSink{logger: logger, said: make(map[string]*complaint)})
	return root
}

const (
	// complainEvery is how often one complaint about one member is written: Raft
	// makes several a second for as long as a member is away.
	complainEvery = time.Minute
	// maxComplaints bounds how many are remembered.
	maxComplaints = 256
)

type slogSink struct {
	logger *slog.Logger
	mu     sync.Mutex
	said   map[string]*complaint
}

// complaint is a warning or error that was written.
type complaint struct {
	at    time.Time
	since int // how often it came since and was not written
}

// due tells whether a complaint is to be written, and how often it was not.
func (s *slogSink) due(what string) (bool, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	c := s.said[what]
	if c != nil && now.Sub(c.at) < complainEvery {
		c.since++
		return false, 0
	}
	if c == nil {
		if len(s.said) >= maxComplaints {
			clear(s.said)
		}
		c = &complaint{}
		s.said[what] = c
	}
	omitted := c.since
	c.at, c.since = now, 0
	return true, omitted
}

// about names the member that a record of Raft's is about, or nothing.
func about(args []any) string {
	for i := 0; i+1 < len(args); i += 2 {
		if args[i] == "peer" || args[i] == "server-id" {
			return fmt.Sprint(args[i+1])
		}
	}
	return ""
}

// Accept implements hclog.SinkAdapter.
func (s *slogSink) Accept(name string, level hclog.Level, message string, args ...any) {
	to := slogLevel(level)
	if !s.logger.Enabled(context.Background(), to) {
		return
	}
	attrs := make([]any, 0, len(args)+4)
	if level >= hclog.Warn {
		due, omitted := s.due(message + about(args))
		if !due {
			return
		}
		if omitted > 0 {
			attrs = append(attrs, "omitted", omitted)
		}
	}
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
