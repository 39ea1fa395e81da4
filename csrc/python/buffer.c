/* buffer.c: lets a Python class export its memory before Python 3.12.
 *
 * From Python 3.12 on, memoryview(x) calls the method x.__buffer__ (PEP 688). Before that, only a C
 * type could export memory. This C type does it by calling the same method; a Python class inherits
 * from it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static int exporter_getbuffer(PyObject *self, Py_buffer *view, int flags) {
    PyObject *source = PyObject_CallMethod(self, "__buffer__", "i", flags);
    view->obj = NULL;
    if (source == NULL) return -1;
    int status = PyObject_GetBuffer(source, view, flags); /* view->obj now keeps source alive */
    Py_DECREF(source);
    return status;
}

static PyBufferProcs exporter_buffer = {.bf_getbuffer = exporter_getbuffer};

static PyTypeObject exporter_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "pygpt._buffer.Exporter",
    .tp_doc = "Exports the buffer that its __buffer__ method returns, through memoryview().",
    .tp_basicsize = sizeof(PyObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_as_buffer = &exporter_buffer,
};

static PyModuleDef buffer_module = {PyModuleDef_HEAD_INIT, .m_name = "pygpt._buffer", .m_size = -1};

PyMODINIT_FUNC PyInit__buffer(void) {
    if (PyType_Ready(&exporter_type) < 0) return NULL;
    PyObject *module = PyModule_Create(&buffer_module);
    if (module == NULL) return NULL;
    Py_INCREF(&exporter_type);
    if (PyModule_AddObject(module, "Exporter", (PyObject *)&exporter_type) < 0) {
        Py_DECREF(&exporter_type);
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
