package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/keycustodian/keycustodian/hsm/drivers"
	"github.com/keycustodian/keycustodian/internal/secret"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// maxConfig bounds a configuration file, in bytes.
const maxConfig = 64 << 10

// config is what nodectl run is told. Each setting is a flag (--api-listen), an
// environment variable (KEYCUSTODIAN_API_LISTEN) and a YAML field (api-listen):
// the first of these that is given counts.
type config struct {
	Name       string
	Dir        string
	Listen     string
	Advertise  string
	APIListen  string
	Device     string
	SealSource string
	Socket     string
	APICert    string
	APICertKey string
	PIDFile    string
	LogLevel   string
	LogFormat  string
}

// setting is one line of the table that parses and documents the configuration.
type setting struct {
	name, otherwise, help string
	value                 *string
}

func (c *config) settings() []setting {
	return []setting{
		{"name", "", "`NAME` of the node, unique in the cluster; else the host's name", &c.Name},
		{"dir", "/var/lib/keycustodian", "data `FOLDER`, mode 0700", &c.Dir},
		{"listen", ":7400", "`ADDRESS` to listen on, for nodes and the API", &c.Listen},
		{"advertise", "", "`HOST:PORT` at which other nodes reach this one; else from listen", &c.Advertise},
		{"api-listen", "", "`ADDRESS` of an API listener of its own; else the API shares listen", &c.APIListen},
		{"device", "", "device `URI`; else soft: in the data folder, under the seal secret of the node", &c.Device},
		{"seal-source", "prompt", "where the 256-bit seal secret comes from: `SOURCE` is file:PATH, credential:NAME, fd:N or prompt (wait for device enter seal)", &c.SealSource},
		{"socket", "", "`PATH` of the unix socket; else socket in the data folder", &c.Socket},
		{"api-cert", "", "PEM `FILE` of an ordinary server certificate for the API, for browsers and proxies", &c.APICert},
		{"api-cert-key", "", "PEM `FILE` of its key", &c.APICertKey},
		{"pid-file", "", "`FILE` that gets the number of the process while it runs", &c.PIDFile},
		{"log-level", "info", "`LEVEL`: debug, info, warn or error", &c.LogLevel},
		{"log-format", "text", "`FORMAT`: text or json", &c.LogFormat},
	}
}

// add makes a flag of every setting.
func (c *config) add(command *cobra.Command) {
	for _, s := range c.settings() {
		help := s.help
		if s.otherwise != "" {
			help += fmt.Sprintf(" (default %q)", s.otherwise)
		}
		command.Flags().StringVar(s.value, s.name, "", help)
	}
}

// variable is the environment variable of a setting.
func (s setting) variable() string {
	return "KEYCUSTODIAN_" + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
}

// load fills what the flags left open from the environment, the file and the
// defaults, in this order, and checks the whole.
func (c *config) load(command *cobra.Command, getenv func(string) string, path string) error {
	file := map[string]string{}
	if path != "" {
		content, err := readConfig(path)
		if err != nil {
			return err
		}
		if file, err = c.parse(content); err != nil {
			var known *hinted
			way := "the settings are those of nodectl run --help, without the dashes"
			if errors.As(err, &known) {
				way = known.hint
			}
			return hint(way, &usageError{err: fmt.Errorf("%s: %w", path, err)})
		}
	}
	for _, s := range c.settings() {
		switch {
		case command.Flags().Changed(s.name):
			if *s.value == "" {
				return emptySetting(s.name)
			}
		case getenv(s.variable()) != "":
			*s.value = getenv(s.variable())
		case file[s.name] != "":
			*s.value = file[s.name]
		default:
			*s.value = s.otherwise
		}
	}
	return c.validate()
}

// emptySetting refuses a setting that says nothing: its default is most likely not
// what was meant.
func emptySetting(name string) error {
	return hint("give it a value, or leave it out for its default", usage("%s is empty", name))
}

func readConfig(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err == nil && len(content) > maxConfig {
		err = hint("the settings are those of nodectl run --help, without the dashes", usage("%s is longer than %d bytes", path, maxConfig))
	}
	return content, err
}

// parse reads YAML: one mapping from settings to text. Unknown and repeated
// fields are refused.
func (c *config) parse(content []byte) (map[string]string, error) {
	known := map[string]bool{}
	for _, s := range c.settings() {
		known[s.name] = true
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(content)))
	var values map[string]string
	if err := decoder.Decode(&values); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(values) == 0 { // cut off, most likely: no default is what was meant
		return nil, errors.New("holds no setting")
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("holds more than one document")
	}
	for name := range values {
		if !known[name] {
			return nil, fmt.Errorf("unknown field %.40q", name)
		}
	}
	for _, s := range c.settings() {
		if value, given := values[s.name]; given && value == "" {
			return nil, emptySetting(s.name)
		}
	}
	return values, nil
}

func (c *config) validate() error {
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return usage("the host has no name: give --name")
		}
		c.Name = nameOf(host)
	}
	if err := checkName(c.Name); err != nil {
		return err
	}
	if c.Dir == "" || !filepath.IsAbs(c.Dir) {
		return usage("dir %.80q is not an absolute path", c.Dir)
	}
	if c.Socket == "" {
		c.Socket = filepath.Join(c.Dir, "socket")
	}
	if c.Device == "" {
		c.Device = "soft:" + (&url.URL{Path: filepath.Join(c.Dir, "device")}).EscapedPath()
	}
	if _, err := secret.ParseSource(c.SealSource, "seal-source"); err != nil {
		return &usageError{err: err}
	}
	for _, l := range []struct{ name, address string }{{"listen", c.Listen}, {"api-listen", c.APIListen}, {"advertise", c.Advertise}} {
		if l.address == "" && l.name != "listen" {
			continue
		}
		host, port, err := net.SplitHostPort(l.address)
		if err != nil {
			return usage("%s %.80q is not host:port", l.name, l.address)
		}
		if _, err := net.LookupPort("tcp", port); err != nil {
			return usage("%s %.80q: %.40s is no port: it is a number up to 65535", l.name, l.address, port)
		}
		if ip := net.ParseIP(host); strings.HasSuffix(l.name, "advertise") && (host == "" || ip != nil && ip.IsUnspecified()) {
			return usage("%s %.80q is no address that others can reach", l.name, l.address)
		}
	}
	if host, _, _ := net.SplitHostPort(c.Listen); c.Advertise == "" && (host == "" || net.ParseIP(host).IsUnspecified()) {
		return usage("listen %q says on which interfaces, not at which address others reach this node: give --advertise HOST:PORT", c.Listen)
	}
	if (c.APICert == "") != (c.APICertKey == "") {
		return usage("api-cert and api-cert-key go together")
	}
	if _, err := c.logger(io.Discard); err != nil {
		return err
	}
	return nil
}

// shown is the configuration for people: a device URI may hold what nobody
// should read.
func (c *config) shown() map[string]string {
	values := map[string]string{}
	for _, s := range c.settings() {
		values[s.name] = *s.value
	}
	values["device"] = drivers.Redact(c.Device)
	return values
}
