package node

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/keycustodian/keycustodian/node/api"
)

// backupPatience is how long a caller may take for one piece of a backup: there
// is no bound on the whole.
const backupPatience = 30 * time.Second

// giveBackup sends a backup of the newest state: one that a minority gives could
// lack what was acknowledged long ago.
func giveBackup(ctx context.Context, w http.ResponseWriter, a *asked) error {
	if len(a.http.URL.Query()) > 0 {
		return malformed("%s takes no query", a.route.Path)
	}
	view, err := a.node.consistent(ctx)
	if err != nil {
		return err
	}
	own := a.node.own.Load()
	if self, ok := view.Member(a.node.id); !ok || self.Fingerprint != own.fingerprint {
		return &api.Error{Code: api.CodeUnavailable, Message: "this node's key is being rotated: what it signs now would not verify", Hint: "try again in a moment, or ask another node"}
	}
	a.face.heads(w, 0)
	w.Header().Set("Content-Type", api.TypeBackup)
	out := &patientWriter{w: w, control: http.NewResponseController(w)}
	err = view.WriteBackup(out, a.node.id, own.signer, a.node.now().UnixMilli())
	if err == nil {
		return nil
	}
	if !out.began {
		return fmt.Errorf("node: %w", err)
	}
	a.node.logger.Warn("a backup was cut off", "to", a.visitor.name, "reason", err)
	panic(http.ErrAbortHandler) // so that the caller sees that it is not whole
}

// patientWriter gives the caller time for every piece, and not for the whole.
type patientWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	began   bool
}

func (p *patientWriter) Write(content []byte) (int, error) {
	p.began = true
	// Where the connection takes no deadline, the server's own holds.
	_ = p.control.SetWriteDeadline(time.Now().Add(backupPatience))
	return p.w.Write(content)
}
