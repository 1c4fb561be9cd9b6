//! Features as Parquet: the columns of the CSV file, typed. A row group is held in memory until it is written.

use std::{fs::File, io, mem, sync::Arc};

use parquet::{
    basic::{LogicalType, Repetition, TimeUnit, Type as PhysicalType},
    data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type},
    errors::{ParquetError, Result},
    file::{
        properties::{EnabledStatistics, WriterProperties},
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::types::{ColumnPath, Type, TypePtr},
};
use quadrille_pipeline::training::Row;

/// Readers take a group at a time, as well: large enough for them to read on, small enough to be held.
const GROUP_BYTES_MAX: usize = 32 << 20;

/// Of a row, beside the texts themselves, for each of its columns: a number, and whether it is there.
const CELL_BYTES: usize = size_of::<f64>() + size_of::<i16>();

type RowGroup<'g, 'f> = SerializedRowGroupWriter<'g, &'f File>;

/// A file that is being written.
pub(super) struct Parquet<'a> {
    file: SerializedFileWriter<&'a File>,
    group: Group,
    group_bytes_max: usize,
}

/// Rows that are not written yet.
struct Group {
    ids: Texts,
    keys: Texts,
    times_ms: Column<i64>,
    features: Vec<Column<f64>>,
    bytes: usize,
}

/// The values that are there, and for each row whether there is one: 1 or 0. Where none may be missing, no row says it.
#[derive(Clone, Default)]
struct Column<T> {
    values: Vec<T>,
    levels: Vec<i16>,
}

/// Texts one behind the other, as a million small pieces of memory would take several times as much.
#[derive(Default)]
struct Texts {
    bytes: Vec<u8>,
    ends: Column<usize>,
}

impl<'a> Parquet<'a> {
    pub fn new(file: &'a File, features: &[&str]) -> io::Result<Self> {
        Self::with_groups(file, features, GROUP_BYTES_MAX)
    }

    fn with_groups(file: &'a File, features: &[&str], group_bytes_max: usize) -> io::Result<Self> {
        // What is said of each page stays in memory until the end, and helps nobody who reads all rows. The least and the greatest
        // text of a group would keep all of its texts.
        let [id, key, _] = super::OWN.map(ColumnPath::from);
        let properties = WriterProperties::builder()
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_column_statistics_enabled(id, EnabledStatistics::None)
            .set_column_statistics_enabled(key, EnabledStatistics::None)
            .set_offset_index_disabled(true)
            .build();
        let schema = schema(features)?;
        Ok(Parquet {
            file: SerializedFileWriter::new(file, schema, Arc::new(properties))?,
            group: Group {
                ids: Texts::default(),
                keys: Texts::default(),
                times_ms: Column::default(),
                features: vec![Column::default(); features.len()],
                bytes: 0,
            },
            group_bytes_max,
        })
    }

    pub fn row(&mut self, row: &Row<'_>, features: &[f64]) -> io::Result<()> {
        self.group.push(row, features);
        if self.group.bytes >= self.group_bytes_max {
            self.write_group()?;
        }
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<()> {
        if self.group.bytes > 0 {
            self.write_group()?;
        }
        self.file.close()?;
        Ok(())
    }

    fn write_group(&mut self) -> Result<()> {
        let mut group = self.file.next_row_group()?;
        self.group.write(&mut group)?;
        group.close()?;
        Ok(())
    }
}

impl Group {
    fn push(&mut self, row: &Row<'_>, features: &[f64]) {
        self.ids.push_required(row.id);
        self.keys.push((!row.key.is_empty()).then_some(row.key));
        self.times_ms.push(row.time_ms);
        for (column, value) in self.features.iter_mut().zip(features) {
            column.push((!value.is_nan()).then_some(*value));
        }
        let cells = super::OWN.len() + features.len();
        self.bytes += row.id.len() + row.key.len() + CELL_BYTES * cells;
    }

    fn write(&mut self, group: &mut RowGroup<'_, '_>) -> Result<()> {
        self.ids.write(group)?;
        self.keys.write(group)?;
        self.times_ms.write::<Int64Type>(group)?;
        for column in &mut self.features {
            column.write::<DoubleType>(group)?;
        }
        self.bytes = 0;
        Ok(())
    }
}

impl<T> Column<T> {
    fn push(&mut self, value: Option<T>) {
        self.levels.push(value.is_some().into());
        self.values.extend(value);
    }

    /// As the next column of the group; it is empty then.
    fn write<D: DataType<T = T>>(&mut self, group: &mut RowGroup<'_, '_>) -> Result<()> {
        write::<D>(&self.values, &self.levels, group)?;
        self.values.clear();
        self.levels.clear();
        Ok(())
    }
}

impl Texts {
    fn push_required(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.values.push(self.bytes.len());
    }

    fn push(&mut self, text: Option<&str>) {
        if let Some(text) = text {
            self.push_required(text);
        }
        self.ends.levels.push(text.is_some().into());
    }

    fn write(&mut self, group: &mut RowGroup<'_, '_>) -> Result<()> {
        let bytes = ByteArray::from(mem::take(&mut self.bytes));
        let mut start = 0;
        let texts = self.ends.values.drain(..).map(|end| {
            let text = bytes.slice(start, end - start);
            start = end;
            text
        });
        write::<ByteArrayType>(&texts.collect::<Vec<_>>(), &self.ends.levels, group)?;
        self.ends.levels.clear();
        Ok(())
    }
}

fn write<D: DataType>(values: &[D::T], levels: &[i16], group: &mut RowGroup<'_, '_>) -> Result<()> {
    let column = group.next_column()?;
    let mut column =
        column.ok_or_else(|| ParquetError::General("the schema has fewer columns".to_owned()))?;
    let levels = (!levels.is_empty()).then_some(levels);
    column.typed::<D>().write_batch(values, levels, None)?;
    column.close()
}

fn schema(features: &[&str]) -> Result<TypePtr> {
    let column = |name, kind, logical, repetition| {
        let column = Type::primitive_type_builder(name, kind);
        let column = column.with_logical_type(logical);
        column.with_repetition(repetition).build().map(Arc::new)
    };
    let (text, number) = (PhysicalType::BYTE_ARRAY, PhysicalType::DOUBLE);
    let [id, key, time] = super::OWN;
    let string = Some(LogicalType::String);
    let moment = Some(LogicalType::timestamp(true, TimeUnit::MILLIS));
    let mut columns = vec![
        column(id, text, string.clone(), Repetition::REQUIRED)?,
        column(key, text, string, Repetition::OPTIONAL)?,
        column(time, PhysicalType::INT64, moment, Repetition::OPTIONAL)?,
    ];
    for name in features {
        columns.push(column(name, number, None, Repetition::OPTIONAL)?);
    }
    let schema = Type::group_type_builder("features").with_fields(columns);
    schema.build().map(Arc::new)
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;

    #[test]
    fn rows_are_held_no_longer_than_until_a_group_is_full() {
        let file = tempfile::tempfile().unwrap();
        let mut table = Parquet::with_groups(&file, &["a", "b"], 4_000).unwrap();
        for number in 0..1_000 {
            let row = Row {
                line: number + 2,
                id: &format!("{number:04}"),
                key: "",
                time_ms: None,
                truth: "",
            };
            table.row(&row, &[number as f64, f64::NAN]).unwrap();
            assert!(table.group.bytes < 4_000);
        }
        table.finish().unwrap();
        let groups = SerializedFileReader::new(file).unwrap();
        let groups = groups.metadata().row_groups();
        let rows: Vec<i64> = groups.iter().map(|it| it.num_rows()).collect();
        assert_eq!(rows.iter().sum::<i64>(), 1_000);
        let full = &rows[..rows.len() - 1];
        assert!(
            full.len() > 10 && full.iter().all(|it| *it == rows[0]),
            "{rows:?}"
        );
    }
}
