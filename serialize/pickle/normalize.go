package pickle

import (
	"strings"
	"unicode/utf8"
)

// rename applies the names of Python 3. Python does so below protocol 3; __builtin__ and copy_reg exist nowhere else and are
// always renamed (dill writes __builtin__.NoneType at every protocol).
func (m *machine) rename(g Global) Global {
	if m.proto < 3 && len(g.Module) <= tableNameMax {
		if len(g.Name) <= tableNameMax {
			if to, ok := python2Names[g]; ok {
				return to
			}
		}
		if to, ok := python2Modules[g.Module]; ok {
			g.Module = to
		}
	}
	return python3(g)
}

// tableNameMax is more than the longest name in the tables below. Longer names are not looked up: hashing one name for each of
// its uses would cost its length each time.
const tableNameMax = 64

// python3 renames the two modules that every pickler since Python 2 has used.
func python3(g Global) Global {
	switch g.Module {
	case "__builtin__":
		g.Module = "builtins"
	case "copy_reg":
		g.Module = "copyreg"
	}
	return g
}

// reduce returns what a call makes: the value itself for the few functions that only spell a value, else an Object.
func (m *machine) reduce(callable any, args Tuple) (any, error) {
	if g, ok := callable.(Global); ok {
		var v any
		var err error
		switch g.Module {
		case "builtins":
			v, err = m.reduceBuiltin(g.Name, args)
		case "copyreg":
			v, err = m.reduceCopyreg(g.Name, args)
		case "_codecs":
			if g.Name == "encode" && len(args) == 2 {
				v, err = m.latin1(args[0], args[1])
			}
		case "dill._dill", "dill.dill":
			v = reduceDill(g.Name, args)
		}
		if v != nil || err != nil {
			return v, err
		}
	}
	m.containers++
	return &Object{Callable: callable, Args: args}, nil
}

// reduceBuiltin returns nil for calls that stay calls.
func (m *machine) reduceBuiltin(name string, args Tuple) (any, error) {
	switch name {
	case "set", "frozenset":
		s := &Set{Frozen: name == "frozenset"}
		if len(args) > 1 {
			return nil, nil
		}
		if len(args) == 1 {
			items, ok := sequence(args[0])
			if !ok {
				return nil, nil
			}
			if err := m.count(len(items)); err != nil {
				return nil, err
			}
			s.Items = items
		}
		m.containers++
		return s, nil
	case "bytes", "bytearray":
		var b []byte
		switch len(args) {
		case 0:
			b = []byte{}
		case 1:
			switch a := args[0].(type) {
			case []byte:
				b = a
			case ByteArray:
				b = a
			default:
				return nil, nil // bytes(5) is five zeros: nothing that a pickler writes
			}
		case 2:
			v, err := m.latin1(args[0], args[1])
			if v == nil || err != nil {
				return nil, err
			}
			b = v.([]byte)
		default:
			return nil, nil
		}
		if name == "bytearray" {
			return ByteArray(b), nil
		}
		return b, nil
	case "getattr":
		if len(args) != 2 {
			return nil, nil
		}
		parent, ok1 := args[0].(Global)
		attr, ok2 := args[1].(string)
		if !ok1 || !ok2 {
			return nil, nil
		}
		if err := m.charge(int64(len(parent.Name) + len(attr) + 1)); err != nil {
			return nil, err
		}
		return Global{parent.Module, parent.Name + "." + attr}, nil
	}
	return nil, nil
}

// reduceCopyreg returns nil for calls that stay calls.
func (m *machine) reduceCopyreg(name string, args Tuple) (any, error) {
	switch name {
	case "__newobj__":
		if len(args) == 0 || m.checkCallable(args[0]) != nil {
			return nil, nil
		}
		m.containers++
		return &Object{Callable: args[0], Args: args[1:len(args):len(args)], New: true}, nil
	case "__newobj_ex__":
		if len(args) != 3 || m.checkCallable(args[0]) != nil {
			return nil, nil
		}
		positional, ok1 := args[1].(Tuple)
		kwargs, ok2 := args[2].(*Dict)
		if !ok1 || !ok2 {
			return nil, nil
		}
		m.containers++
		return &Object{Callable: args[0], Args: positional, Kwargs: kwargs, New: true}, nil
	case "_reconstructor":
		if len(args) != 3 || m.checkCallable(args[0]) != nil {
			return nil, nil
		}
		base, ok := args[1].(Global)
		if !ok || base.Module != "builtins" {
			return nil, nil
		}
		o := &Object{Callable: args[0], Args: Tuple{}, New: true}
		switch v := args[2].(type) {
		case nil:
			if base.Name != "object" {
				return nil, nil
			}
		case Tuple:
			if base.Name == "tuple" {
				o.Args = v
			} else {
				o.Args = Tuple{v}
			}
		case *List:
			if base.Name != "list" {
				return nil, nil
			}
			if err := m.count(len(v.Items)); err != nil {
				return nil, err
			}
			// The object has the items that the list has now; a full slice makes either's append a copy.
			o.Items = v.Items[:len(v.Items):len(v.Items)]
		case *Dict:
			if base.Name != "dict" {
				return nil, nil
			}
			if err := m.count(v.Len()); err != nil {
				return nil, err
			}
			if v.Len() > 0 {
				o.Pairs = &Dict{pairs: make([]pair, 0, v.Len())}
				for k, x := range v.All() {
					if err := m.charge(keyCost(k)); err != nil {
						return nil, err
					}
					o.Pairs.Set(k, x)
				}
			}
		default:
			if base.Name == "object" {
				return nil, nil
			}
			o.Args = Tuple{v}
		}
		m.containers++
		return o, nil
	}
	return nil, nil
}

// reduceDill returns nil for calls that stay calls.
func reduceDill(name string, args Tuple) any {
	switch name {
	case "_load_type":
		if len(args) != 1 {
			return nil
		}
		typ, ok := args[0].(string)
		if !ok {
			return nil
		}
		if len(typ) <= tableNameMax {
			if g, ok := dillTypes[typ]; ok {
				return g
			}
		}
		return Global{"builtins", typ}
	case "_create_namedtuple":
		// (name, fields, module) and perhaps defaults: dill makes the class again when the module lacks it.
		if len(args) < 3 || len(args) > 4 {
			return nil
		}
		typ, ok1 := args[0].(string)
		module, ok2 := args[2].(string)
		if !ok1 || !ok2 {
			return nil
		}
		return python3(Global{module, typ})
	}
	return nil
}

// sequence returns the items of a list, tuple or set; appending to them copies.
func sequence(v any) ([]any, bool) {
	switch v := v.(type) {
	case *List:
		return v.Items[:len(v.Items):len(v.Items)], true
	case Tuple:
		return v[:len(v):len(v)], true
	case *Set:
		return v.Items[:len(v.Items):len(v.Items)], true
	}
	return nil, false
}

// latin1 encodes text, as pickles below protocol 3 spell bytes. It returns nil when the call means anything else.
func (m *machine) latin1(text, encoding any) (any, error) {
	s, ok := text.(string)
	if !ok {
		return nil, nil
	}
	name, ok := encoding.(string)
	if !ok || len(name) > 16 {
		return nil, nil
	}
	switch strings.ReplaceAll(strings.ToLower(name), "_", "-") {
	case "latin1", "latin-1", "iso-8859-1":
	default:
		return nil, nil
	}
	if err := m.charge(int64(len(s))); err != nil {
		return nil, err
	}
	b := make([]byte, 0, utf8.RuneCountInString(s))
	for _, r := range s {
		if r > 0xFF {
			return nil, nil // Python would raise
		}
		b = append(b, byte(r))
	}
	return b, nil
}

// python2Modules is IMPORT_MAPPING of Lib/_compat_pickle.py, without the two that rename always applies, and with the
// module of exceptions.
var python2Modules = map[string]string{
	"BaseHTTPServer":     "http.server",
	"CGIHTTPServer":      "http.server",
	"ConfigParser":       "configparser",
	"Cookie":             "http.cookies",
	"Dialog":             "tkinter.dialog",
	"DocXMLRPCServer":    "xmlrpc.server",
	"FileDialog":         "tkinter.filedialog",
	"HTMLParser":         "html.parser",
	"Queue":              "queue",
	"ScrolledText":       "tkinter.scrolledtext",
	"SimpleDialog":       "tkinter.simpledialog",
	"SimpleHTTPServer":   "http.server",
	"SimpleXMLRPCServer": "xmlrpc.server",
	"SocketServer":       "socketserver",
	"StringIO":           "io",
	"Tix":                "tkinter.tix",
	"Tkconstants":        "tkinter.constants",
	"Tkdnd":              "tkinter.dnd",
	"Tkinter":            "tkinter",
	"UserDict":           "collections",
	"UserList":           "collections",
	"UserString":         "collections",
	"_abcoll":            "collections.abc",
	"_elementtree":       "xml.etree.ElementTree",
	"_winreg":            "winreg",
	"anydbm":             "dbm",
	"cPickle":            "pickle",
	"cStringIO":          "io",
	"commands":           "subprocess",
	"cookielib":          "http.cookiejar",
	"dbhash":             "dbm.bsd",
	"dbm":                "dbm.ndbm",
	"dumbdbm":            "dbm.dumb",
	"dummy_thread":       "_dummy_thread",
	"gdbm":               "dbm.gnu",
	"htmlentitydefs":     "html.entities",
	"httplib":            "http.client",
	"markupbase":         "_markupbase",
	"repr":               "reprlib",
	"robotparser":        "urllib.robotparser",
	"test.test_support":  "test.support",
	"thread":             "_thread",
	"tkColorChooser":     "tkinter.colorchooser",
	"tkCommonDialog":     "tkinter.commondialog",
	"tkFileDialog":       "tkinter.filedialog",
	"tkFont":             "tkinter.font",
	"tkMessageBox":       "tkinter.messagebox",
	"tkSimpleDialog":     "tkinter.simpledialog",
	"ttk":                "tkinter.ttk",
	"urllib2":            "urllib.request",
	"urlparse":           "urllib.parse",
	"whichdb":            "dbm",
	"xmlrpclib":          "xmlrpc.client",
	"exceptions":         "builtins",
}

// python2Names is NAME_MAPPING of Lib/_compat_pickle.py, without the exceptions that keep their names.
var python2Names = map[Global]Global{
	{"UserDict", "IterableUserDict"}:           {"collections", "UserDict"},
	{"UserDict", "UserDict"}:                   {"collections", "UserDict"},
	{"UserList", "UserList"}:                   {"collections", "UserList"},
	{"UserString", "UserString"}:               {"collections", "UserString"},
	{"__builtin__", "basestring"}:              {"builtins", "str"},
	{"__builtin__", "intern"}:                  {"sys", "intern"},
	{"__builtin__", "long"}:                    {"builtins", "int"},
	{"__builtin__", "reduce"}:                  {"functools", "reduce"},
	{"__builtin__", "unichr"}:                  {"builtins", "chr"},
	{"__builtin__", "unicode"}:                 {"builtins", "str"},
	{"__builtin__", "xrange"}:                  {"builtins", "range"},
	{"_multiprocessing", "Connection"}:         {"multiprocessing.connection", "Connection"},
	{"_socket", "fromfd"}:                      {"socket", "fromfd"},
	{"exceptions", "StandardError"}:            {"builtins", "Exception"},
	{"itertools", "ifilter"}:                   {"builtins", "filter"},
	{"itertools", "ifilterfalse"}:              {"itertools", "filterfalse"},
	{"itertools", "imap"}:                      {"builtins", "map"},
	{"itertools", "izip"}:                      {"builtins", "zip"},
	{"itertools", "izip_longest"}:              {"itertools", "zip_longest"},
	{"multiprocessing", "AuthenticationError"}: {"multiprocessing.context", "AuthenticationError"},
	{"multiprocessing", "BufferTooShort"}:      {"multiprocessing.context", "BufferTooShort"},
	{"multiprocessing", "ProcessError"}:        {"multiprocessing.context", "ProcessError"},
	{"multiprocessing", "TimeoutError"}:        {"multiprocessing.context", "TimeoutError"},
	{"multiprocessing.forking", "Popen"}:       {"multiprocessing.popen_fork", "Popen"},
	{"multiprocessing.process", "Process"}:     {"multiprocessing.context", "Process"},
	{"socket", "_socketobject"}:                {"socket", "SocketType"},
	{"urllib", "ContentTooShortError"}:         {"urllib.error", "ContentTooShortError"},
	{"urllib", "getproxies"}:                   {"urllib.request", "getproxies"},
	{"urllib", "pathname2url"}:                 {"urllib.request", "pathname2url"},
	{"urllib", "quote"}:                        {"urllib.parse", "quote"},
	{"urllib", "quote_plus"}:                   {"urllib.parse", "quote_plus"},
	{"urllib", "unquote"}:                      {"urllib.parse", "unquote"},
	{"urllib", "unquote_plus"}:                 {"urllib.parse", "unquote_plus"},
	{"urllib", "url2pathname"}:                 {"urllib.request", "url2pathname"},
	{"urllib", "urlcleanup"}:                   {"urllib.request", "urlcleanup"},
	{"urllib", "urlencode"}:                    {"urllib.parse", "urlencode"},
	{"urllib", "urlopen"}:                      {"urllib.request", "urlopen"},
	{"urllib", "urlretrieve"}:                  {"urllib.request", "urlretrieve"},
	{"urllib2", "HTTPError"}:                   {"urllib.error", "HTTPError"},
	{"urllib2", "URLError"}:                    {"urllib.error", "URLError"},
	{"whichdb", "whichdb"}:                     {"dbm", "whichdb"},
}

// dillTypes is _reverse_typemap of dill/_dill.py where name and type differ, and numpy's array type, which some releases add.
var dillTypes = map[string]Global{
	"ndarray":                   {"numpy", "ndarray"},
	"AsyncGeneratorType":        {"builtins", "async_generator"},
	"AttrGetterType":            {"operator", "attrgetter"},
	"BufferedRandomType":        {"_io", "BufferedRandom"},
	"BufferedReaderType":        {"_io", "BufferedReader"},
	"BufferedWriterType":        {"_io", "BufferedWriter"},
	"BuiltinFunctionType":       {"builtins", "builtin_function_or_method"},
	"BuiltinMethodType":         {"builtins", "builtin_function_or_method"},
	"CellType":                  {"builtins", "cell"},
	"ClassMethodDescriptorType": {"builtins", "classmethod_descriptor"},
	"CodeType":                  {"builtins", "code"},
	"CoroutineType":             {"builtins", "coroutine"},
	"DictItemsType":             {"builtins", "dict_items"},
	"DictKeysType":              {"builtins", "dict_keys"},
	"DictValuesType":            {"builtins", "dict_values"},
	"EllipsisType":              {"builtins", "ellipsis"},
	"EnvironmentError":          {"builtins", "OSError"},
	"ExitType":                  {"_sitebuiltins", "Quitter"},
	"FileType":                  {"_io", "FileIO"},
	"FrameType":                 {"builtins", "frame"},
	"FunctionType":              {"builtins", "function"},
	"GeneratorType":             {"builtins", "generator"},
	"GenericAliasIteratorType":  {"builtins", "generic_alias_iterator"},
	"GetSetDescriptorType":      {"builtins", "getset_descriptor"},
	"IOError":                   {"builtins", "OSError"},
	"ItemGetterType":            {"operator", "itemgetter"},
	"LambdaType":                {"builtins", "function"},
	"MappingProxyType":          {"builtins", "mappingproxy"},
	"MemberDescriptorType":      {"builtins", "member_descriptor"},
	"MethodDescriptorType":      {"builtins", "method_descriptor"},
	"MethodType":                {"builtins", "method"},
	"MethodWrapperType":         {"builtins", "method-wrapper"},
	"ModuleType":                {"builtins", "module"},
	"OdictItemsType":            {"builtins", "odict_items"},
	"OdictKeysType":             {"builtins", "odict_keys"},
	"OdictValuesType":           {"builtins", "odict_values"},
	"PartialType":               {"functools", "partial"},
	"PyBufferedRandomType":      {"_pyio", "BufferedRandom"},
	"PyBufferedReaderType":      {"_pyio", "BufferedReader"},
	"PyBufferedWriterType":      {"_pyio", "BufferedWriter"},
	"PyCapsuleType":             {"builtins", "PyCapsule"},
	"PyTextWrapperType":         {"_pyio", "TextIOWrapper"},
	"SuperType":                 {"builtins", "super"},
	"TextWrapperType":           {"_io", "TextIOWrapper"},
	"TracebackType":             {"builtins", "traceback"},
	"WrapperDescriptorType":     {"builtins", "wrapper_descriptor"},
}
