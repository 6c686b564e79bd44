//! corpus: to come
