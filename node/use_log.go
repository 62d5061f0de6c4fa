package node

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

const (
	// useLogEvery is how often uses are written to the node's log.
	useLogEvery = 10 * time.Second
	// useShards is how many tables share the counting. A use takes any of them, so
	// that many at a time with one key do not wait for one lock.
	useShards = 16
	// maxUseRows and maxFailedRows bound one summary. What failed has rows of its
	// own, and fewer: anybody can ask for names that no key has, and must neither
	// fill the log nor push what was done into the row of others.
	maxUseRows, maxFailedRows = 1000, 100
)

// useLog counts who used which key, and writes it to the node's own log: uses are
// too many for Raft. It holds names and never an input or an output.
type useLog struct {
	node   *Node
	shards [useShards]useShard
}

type useShard struct {
	mu    sync.Mutex
	ended bool // nobody comes to write what is counted
	table useTable
	_     [64]byte // the next one's lock is another cache line's
}

// useRow is one line of a summary: who did what, and how it ended.
type useRow struct {
	others      bool // rows for which there was no room
	kind        CallerKind
	fingerprint dkek.Fingerprint
	name        string
	via         string // the member that forwarded it
	key         string
	version     uint64 // 0 where none was found
	verb        fsm.Verbs
	code        api.Code // empty: done
}

// useCount is how often, and when by the node's clock, in milliseconds.
type useCount struct {
	count       uint64
	first, last int64
}

// useTable is a bounded sum of uses.
type useTable struct {
	rows   map[useRow]useCount
	failed int // rows of what was not done
}

func (t *useTable) add(row useRow, more useCount) {
	if t.rows == nil {
		t.rows = make(map[useRow]useCount)
	}
	sum, known := t.rows[row]
	failed := row.code != ""
	switch {
	case known:
	case failed && t.failed >= maxFailedRows, !failed && len(t.rows)-t.failed >= maxUseRows:
		row = useRow{others: true}
		if failed {
			row.code = useLogSeveral
		}
		sum, known = t.rows[row]
	}
	if !known {
		sum.first = more.first
		if failed {
			t.failed++
		}
	}
	sum.count += more.count
	sum.first, sum.last = min(sum.first, more.first), max(sum.last, more.last)
	t.rows[row] = sum
}

// useLogSeveral is the outcome of others, which failed for several reasons.
const useLogSeveral api.Code = "several"

// note counts one use that ended here. via is the member that forwarded it, or nil.
func (l *useLog) note(ctx context.Context, caller Caller, via *fsm.Member, key string, version uint64, verb fsm.Verbs, err error) {
	logger := l.node.logger
	if !logger.Enabled(ctx, slog.LevelInfo) {
		return
	}
	row := useRow{kind: caller.Kind, fingerprint: caller.Fingerprint, name: caller.Name, key: key, version: version, verb: verb}
	if via != nil && via.Fingerprint != caller.Fingerprint {
		row.via = via.Name
	}
	if err != nil {
		row.code = l.node.face.explain(err).Code
		if key != "" && fsm.CheckKeyName(key) != nil {
			row.key, row.version = "(not a name)", 0 // the caller's own words
		}
	}
	now := l.node.now().UnixMilli()
	if logger.Enabled(ctx, slog.LevelDebug) {
		logger.LogAttrs(ctx, slog.LevelDebug, "key use", row.attributes()...)
	}
	one := useCount{1, now, now}
	shard := &l.shards[rand.Uint32N(useShards)]
	shard.mu.Lock()
	ended := shard.ended
	if !ended {
		shard.table.add(row, one)
	}
	shard.mu.Unlock()
	if ended {
		l.write(row, one)
	}
}

// keep writes summaries as long as the node runs.
func (l *useLog) keep(ctx context.Context) {
	ticker := time.NewTicker(useLogEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			l.summarise(false)
		}
	}
}

// summarise writes what was counted since the last time, one line for each row. At
// the end, a use that is still on its way is written as soon as it is counted.
func (l *useLog) summarise(end bool) {
	var sum useTable
	for i := range l.shards {
		shard := &l.shards[i]
		shard.mu.Lock()
		part := shard.table
		shard.table, shard.ended = useTable{}, shard.ended || end
		shard.mu.Unlock()
		for row, count := range part.rows {
			sum.add(row, count)
		}
	}
	rows := make([]useRow, 0, len(sum.rows))
	for row := range sum.rows {
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b useRow) int { return int(sum.rows[a].first - sum.rows[b].first) })
	for _, row := range rows {
		l.write(row, sum.rows[row])
	}
}

func (l *useLog) write(row useRow, c useCount) {
	l.node.logger.LogAttrs(context.Background(), slog.LevelInfo, "key uses", append(row.attributes(),
		slog.Uint64("count", c.count), slog.Time("first", time.UnixMilli(c.first).UTC()), slog.Time("last", time.UnixMilli(c.last).UTC()))...)
}

// attributes are the row in words.
func (r useRow) attributes() []slog.Attr {
	outcome := string(r.code)
	if r.code == "" {
		outcome = "ok"
	}
	if r.others {
		return []slog.Attr{slog.String("caller", "others"), slog.String("outcome", outcome)}
	}
	all := []slog.Attr{slog.String("caller", r.kind.String())}
	if r.name != "" && r.kind != CallerSocket {
		all = append(all, slog.String("name", r.name))
	}
	if r.fingerprint != (dkek.Fingerprint{}) {
		all = append(all, slog.String("fingerprint", r.fingerprint.String()))
	}
	if r.via != "" {
		all = append(all, slog.String("via", r.via))
	}
	if key := r.key; key != "" {
		if r.version != 0 {
			key = versionRef(key, uint32(r.version))
		}
		all = append(all, slog.String("key", key))
	}
	return append(all, slog.String("verb", r.verb.String()), slog.String("outcome", outcome))
}

// settled tells whether a member that forwarded a use asks no other one after this
// answer: then the use ended here, and is logged here.
func settled(answer forwardedAnswer, err error) bool {
	var refused *fsm.Error
	return err == nil || answer.Fault != "" || errors.As(err, &refused) || errors.Is(err, ErrForbidden)
}
