package transport

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
)

// serve answers one request of a member.
func (p *Peers) serve(w http.ResponseWriter, r *http.Request) {
	from, _ := r.Context().Value(callerKey{}).(Fingerprint)
	answer, err := p.answer(r, from)
	if err == nil && len(answer) > MaxBody {
		err = &RemoteError{CodeTooLarge, "the answer is larger than 1 MiB"}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err == nil {
		w.Write(answer)
		return
	}
	body, encodingErr := encodeError(remoteError(err))
	if encodingErr != nil {
		body = nil
	}
	w.WriteHeader(http.StatusUnprocessableEntity)
	w.Write(body)
}

func (p *Peers) answer(r *http.Request, from Fingerprint) ([]byte, error) {
	// Membership at the handshake was membership then.
	if !p.server.config.Directory.IsMember(from) {
		return nil, &RemoteError{CodeNotMember, "the caller is not a member"}
	}
	method := strings.TrimPrefix(r.URL.Path, "/")
	handler, err := p.begin(method)
	if err != nil {
		return nil, err
	}
	defer p.running.Done()
	if r.Method != http.MethodPost || r.URL.RawQuery != "" {
		return nil, &RemoteError{CodeMalformed, "a request is a POST without a query"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, MaxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, &RemoteError{CodeTooLarge, "the request is larger than 1 MiB"}
	}
	if err != nil {
		return nil, &RemoteError{CodeMalformed, "the request ended early"}
	}
	ctx, cancel := context.WithTimeout(r.Context(), handlerTimeout)
	defer cancel()
	return handler(ctx, from, body)
}

// begin finds the handler and counts it as running; the caller calls Done.
func (p *Peers) begin(method string) (Handler, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, &RemoteError{CodeUnavailable, "the node is closing"}
	}
	handler := p.handlers[method]
	if handler == nil {
		return nil, &RemoteError{CodeUnknownMethod, "this node does not know the method"}
	}
	p.running.Add(1)
	return handler, nil
}
