package api

// Who is a kind of caller.
type Who string

const (
	Anyone   Who = "anyone"   // no client certificate wanted
	Operator Who = "operator" // a key of the operator set; may do what a user may
	User     Who = "user"     // a client with prefixes and verbs
	Auditor  Who = "auditor"  // a client that reads
	Socket   Who = "socket"   // the node's own unix socket
)

// Verb is what a user may do with keys under its prefixes.
type Verb string

const (
	VerbCreate  Verb = "create"
	VerbSign    Verb = "sign"
	VerbVerify  Verb = "verify"
	VerbEncrypt Verb = "encrypt"
	VerbDecrypt Verb = "decrypt"
	VerbDerive  Verb = "derive"
	VerbMAC     Verb = "mac"
	VerbRotate  Verb = "rotate"
	VerbManage  Verb = "manage" // enable, disable, delete, undelete, labels
	VerbList    Verb = "list"   // list, show, public
	VerbRandom  Verb = "random"
)

// Verbs are all verbs there are.
func Verbs() []Verb {
	return []Verb{VerbCreate, VerbSign, VerbVerify, VerbEncrypt, VerbDecrypt, VerbDerive, VerbMAC,
		VerbRotate, VerbManage, VerbList, VerbRandom}
}

// Route is one thing that can be asked for.
type Route struct {
	// Name is how code and the OpenAPI document call it (operationId).
	Name string
	// Method and Path are matched exactly; no path has a variable part.
	Method, Path string
	// Who may ask. A caller that is none of these is [CodeForbidden], one
	// without an identity [CodeUnauthenticated].
	Who []Who
	// Verb is what a user must be allowed for the key asked about.
	Verb Verb
	// Query is a zero struct with `query` tags, or nil.
	Query any
	// Request is a zero struct for the JSON body, or nil.
	Request any
	// Secrets names the secrets of a body of [TypeSecrets], in their order.
	Secrets []string
	// Response is a zero struct for the JSON answer; nil where it is something else.
	Response any
	// Changes is set where the request alters replicated state or a device:
	// it carries a request ID.
	Changes bool
	// Doc says in a sentence or two what it does.
	Doc string
}

// Pattern is the route in the form of net/http: "POST /v1/key/sign".
func (r Route) Pattern() string { return r.Method + " " + r.Path }

// May reports whether this kind of caller may ask at all.
func (r Route) May(who Who) bool {
	for _, w := range r.Who {
		if w == who || w == Anyone {
			return true
		}
	}
	return false
}
